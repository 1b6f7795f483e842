"""An encoder alone: BERT, with tensor names and config.json exactly those of Hugging Face's BertForMaskedLM.

Every token sees every other, so nothing is left to predict but what was hidden: masked.py hides
some tokens for training and asks for those that a user hides.

    model = build(BertConfig(...))
    logits = model(ids)                       # (b, i, vocabulary), of each token itself, not the next one
    hidden = model.hidden(ids)                # also where the file has no head (BertModel)

Source: Devlin et al. 2019, "BERT: Pre-training of Deep Bidirectional Transformers".
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from klieg import dropout, half
from klieg.attention import Mask
from klieg.config import BertConfig
from klieg.errors import KliegError
from klieg.layers import Change, Context, Embedding, Linear, Observer, attention_of, join_heads, split_heads


class BertEmbeddings(nn.Module):
    """The sum of three learned tables, normed: what a token is, where it stands, which of two texts it is of."""

    def __init__(self, c: BertConfig) -> None:
        super().__init__()
        self.word_embeddings = Embedding(c.vocab_size, c.hidden_size)
        self.position_embeddings = Embedding(c.max_position_embeddings, c.hidden_size)
        self.token_type_embeddings = Embedding(c.type_vocab_size, c.hidden_size)
        self.LayerNorm = nn.LayerNorm(c.hidden_size, c.layer_norm_eps)
        self.dropout = c.hidden_dropout_prob

    def forward(self, ids: Tensor, positions: Tensor, types: Tensor) -> Tensor:
        x = self.word_embeddings(ids) + self.token_type_embeddings(types) + self.position_embeddings(positions)
        return dropout.add(None, self.LayerNorm(x), self.dropout, self.training)


class BertSelfAttention(nn.Module):
    """q, k and v, each with a matrix and a bias; every head with keys of its own."""

    def __init__(self, c: BertConfig, layer: int) -> None:
        super().__init__()
        self.heads, self.layer = c.num_attention_heads, layer
        self.query = Linear(c.hidden_size, c.hidden_size)
        self.key = Linear(c.hidden_size, c.hidden_size)
        self.value = Linear(c.hidden_size, c.hidden_size)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        q, k, v = (split_heads(part(x), self.heads) for part in (self.query, self.key, self.value))
        return join_heads(attention_of(q, k, v, self.layer, context))


class BertOutput(nn.Module):
    """The end of a part: a matrix, then the norm of its sum with the stream (post-norm)."""

    def __init__(self, c: BertConfig, inputs: int) -> None:
        super().__init__()
        self.dense = Linear(inputs, c.hidden_size)
        self.LayerNorm = nn.LayerNorm(c.hidden_size, c.layer_norm_eps)
        self.dropout = c.hidden_dropout_prob

    def forward(self, part: Tensor, stream: Tensor) -> Tensor:
        return self.LayerNorm(dropout.add(stream, self.dense(part), self.dropout, self.training))


class BertAttention(nn.Module):
    """Self-attention and its end."""

    def __init__(self, c: BertConfig, layer: int) -> None:
        super().__init__()
        self.self = BertSelfAttention(c, layer)
        self.output = BertOutput(c, c.hidden_size)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        return self.output(self.self(x, context), x)


class BertIntermediate(nn.Module):
    """The first matrix of the feed-forward part, with the exact GELU."""

    def __init__(self, c: BertConfig) -> None:
        super().__init__()
        self.dense = Linear(c.hidden_size, c.intermediate_size)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.dense(x))


class BertBlock(nn.Module):
    """Attention, then two matrices with GELU between them; each part is added to the stream and normed after it."""

    def __init__(self, c: BertConfig, layer: int) -> None:
        super().__init__()
        self.attention = BertAttention(c, layer)
        self.intermediate = BertIntermediate(c)
        self.output = BertOutput(c, c.intermediate_size)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        x = self.attention(x, context)
        return self.output(self.intermediate(x), x)


class BertStack(nn.Module):
    """All blocks."""

    def __init__(self, c: BertConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(BertBlock(c, layer) for layer in range(c.num_hidden_layers))

    def forward(self, x: Tensor, context: Context) -> Tensor:
        for block in self.layer:
            x = block(x, context)
        return x


class BertTransform(nn.Module):
    """What the stream passes before it is held against the vocabulary: matrix, GELU, norm."""

    def __init__(self, c: BertConfig) -> None:
        super().__init__()
        self.dense = Linear(c.hidden_size, c.hidden_size)
        self.LayerNorm = nn.LayerNorm(c.hidden_size, c.layer_norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        return self.LayerNorm(F.gelu(self.dense(x)))


class BertPredictions(nn.Module):
    """The head of masked tokens; its matrix is that of the embeddings, its bias its own."""

    def __init__(self, c: BertConfig) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(c.vocab_size))
        self.transform = BertTransform(c)


class Bert(nn.Module):
    """Ids in, logits of every token itself out; both sides of a token are seen.

    Of a BertModel, which has no head, hidden() is all there is, and head() is a KliegError. The pooler
    and the next-sentence head that some files hold lie beside the way of masked tokens and are not read.
    """

    change: Change | None = None
    """What every call of attention sees instead; klieg.changes.changed() gives a model that has one."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.config = config
        self.layers, self.heads = config.num_hidden_layers, config.num_attention_heads
        self.kv_heads, self.head_width = self.heads, config.hidden_size // self.heads
        self.positions = config.max_position_embeddings
        self.bert = nn.ModuleDict({"embeddings": BertEmbeddings(config), "encoder": BertStack(config)})
        if config.headed:
            self.cls = nn.ModuleDict({"predictions": BertPredictions(config)})

    def forward(self, ids: Tensor, *, mask: Mask | None = None, positions: Tensor | None = None, types: Tensor | None = None,
                observe: Observer | None = None, kernel: str | None = None) -> Tensor:
        """ids (b, i), int64 -> logits (b, i, vocabulary).

        `mask` says which tokens see which, all by default: Mask.padding(real), Mask.documents(numbers).
        `positions` (b or 1, i) default to the slots and `types` (b or 1, i), 0 in a first text and 1 in
        a second, to 0. `observe` is called with an Observation of kind "self" for each layer, in order.
        """
        return self.head(self.hidden(ids, mask=mask, positions=positions, types=types, observe=observe, kernel=kernel))

    def hidden(self, ids: Tensor, *, mask: Mask | None = None, positions: Tensor | None = None, types: Tensor | None = None,
               observe: Observer | None = None, kernel: str | None = None) -> Tensor:
        """The last layer's stream, normed: (b, i, width); forward() without the head."""
        if ids.shape[1] > self.positions:
            raise KliegError(f"the text needs {ids.shape[1]} tokens and the model has {self.positions} positions; "
                             f"cut the text to {self.positions} tokens.")
        if positions is None:
            positions = torch.arange(ids.shape[1], device=ids.device)[None]
        x = self.bert["embeddings"](ids, positions, torch.zeros_like(ids[:1]) if types is None else types)
        return self.bert["encoder"](x, Context(mask or Mask(), observe=observe, kernel=kernel, change=self.change))

    @property
    def vocabulary(self) -> nn.Parameter:
        """The matrix of embeddings and of the logits: (vocabulary, width)."""
        return self.bert["embeddings"].word_embeddings.weight

    def head(self, hidden: Tensor) -> Tensor:
        """hidden (..., width) -> logits (..., vocabulary)."""
        if not self.config.headed:
            raise KliegError("the model is a BertModel, an encoder without the head that names tokens; take its hidden "
                             "states, or a BertForMaskedLM.")
        predictions = self.cls["predictions"]
        return half.linear(predictions.transform(hidden), self.vocabulary, predictions.bias)

    @property
    def parameter_count(self) -> int:
        return sum(p.numel() for p in self.parameters())
