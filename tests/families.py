"""Families of models: for each a tiny random copy out of transformers' own code, and inputs for it.

Two layers, hidden 64, four heads, a vocabulary of 99; windows, chunks and pages so short that 13 tokens reach
beyond them. tests/test_families.py watches every one of them and writes docs/models.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

VOCABULARY, TOKENS = 99, 13

MHA = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128,
       "vocab_size": VOCABULARY, "max_position_embeddings": 64, "pad_token_id": 0}
GQA = MHA | {"num_key_value_heads": 2}
HEAD = GQA | {"head_dim": 16}
SLIDING = {"sliding_window": 5}
MIXED = SLIDING | {"layer_types": ["sliding_attention", "full_attention"]}
GEMMA = HEAD | {"query_pre_attn_scalar": 16} | MIXED
MLA = MHA | {"num_key_value_heads": 4, "kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8,
             "qk_nope_head_dim": 16, "v_head_dim": 12}
EXPERTS = {"num_local_experts": 2, "num_experts_per_tok": 1}
SPARSE = {"moe_intermediate_size": 32, "n_routed_experts": 2, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 1,
          "first_k_dense_replace": 1, "n_shared_experts": 1}
INDEXER = {"index_n_heads": 8, "index_head_dim": 16, "index_topk": 6}
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 32, "mamba_d_state": 16, "mamba_n_groups": 1, "mamba_expand": 2,
         "mamba_chunk_size": 8}
GPT = {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": VOCABULARY, "n_positions": 64, "rotary_dim": 8}
IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
SPEAK = {"d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
         "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "vocab_size": VOCABULARY} | IDS
TRANSLATE = SPEAK | {"max_position_embeddings": 64}
T5 = {"d_model": 64, "d_kv": 4, "d_ff": 64, "num_layers": 2, "num_heads": 4, "vocab_size": VOCABULARY,
      "decoder_start_token_id": 0, "relative_attention_num_buckets": 8, "relative_attention_max_distance": 16}
PICTURE = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128,
           "image_size": 32, "patch_size": 8}
WAVE = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
        "conv_dim": (16, 16), "conv_kernel": (4, 4), "conv_stride": (4, 4), "num_feat_extract_layers": 2,
        "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "vocab_size": VOCABULARY}

DECODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("MHA, learned positions", MHA),
    "gpt_bigcode": ("MQA, learned positions", MHA | {"multi_query": True}),
    "gpt_neox": ("MHA, RoPE on part of a head", MHA),
    "opt": ("MHA, learned positions", MHA | {"ffn_dim": 64, "word_embed_proj_dim": 64}),
    "biogpt": ("MHA, learned positions", MHA),
    "phi": ("MHA, RoPE on part of a head", MHA),
    "phi3": ("GQA, RoPE, window", GQA | SLIDING),
    "llama": ("GQA, RoPE", GQA),
    "llama4_text": ("GQA, chunks and full, QK-norm, temperature", HEAD | EXPERTS | {
        "intermediate_size_mlp": 64, "attention_chunk_size": 7, "no_rope_layers": [1, 0], "attn_temperature_tuning": True,
        "floor_scale": 4}),
    "mistral": ("GQA, RoPE, window", GQA | SLIDING),
    "ministral3": ("GQA, YaRN, temperature", HEAD),
    "mixtral": ("GQA, RoPE, experts", GQA | EXPERTS),
    "qwen2": ("GQA, RoPE, biases", GQA),
    "qwen3": ("GQA, QK-norm", HEAD),
    "qwen3_moe": ("GQA, QK-norm, experts", HEAD | {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 32}),
    "gemma": ("MQA, RoPE", HEAD | {"num_key_value_heads": 1}),
    "gemma2": ("GQA, softcap, window and full", GEMMA),
    "gemma3_text": ("GQA, QK-norm, window and full", GEMMA),
    "gemma3n_text": ("GQA, QK-norm, window and full", GEMMA | {
        "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": VOCABULARY, "laurel_rank": 8,
        "altup_num_inputs": 2, "num_kv_shared_layers": 0, "activation_sparsity_pattern": [0.0, 0.0]}),
    "gemma4_text": ("GQA, QK-norm, window and full", HEAD | MIXED | {
        "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": VOCABULARY, "global_head_dim": 32,
        "num_kv_shared_layers": 0}),
    "vaultgemma": ("GQA, softcap, window and full", GEMMA),
    "olmo": ("GQA, RoPE", GQA),
    "olmo2": ("GQA, QK-norm", GQA),
    "olmo3": ("GQA, QK-norm, window and full", GQA | MIXED),
    "granite": ("GQA, scale of its own", GQA | {"attention_multiplier": 0.2}),
    "granitemoe": ("GQA, experts", GQA | EXPERTS),
    "granite_swa": ("GQA, window, sinks, which the weights that eager returns leave out", GQA | SLIDING),
    "smollm3": ("GQA, one layer without RoPE", GQA | {"no_rope_layers": [1, 0]}),
    "cohere": ("GQA, QK-norm, parallel block", GQA | {"use_qk_norm": True}),
    "cohere2": ("GQA, window with RoPE, full without", GQA | MIXED),
    "gpt_oss": ("GQA, sinks, window and full, experts", HEAD | MIXED | EXPERTS),
    "mimo_v2_flash": ("GQA, sinks, window, Dv ≠ Dk, experts", HEAD | SLIDING | {
        "v_head_dim": 8, "n_routed_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 32}),
    "deepseek_v2": ("MLA, Dv ≠ Dk, experts", MLA | SPARSE),
    "deepseek_v3": ("MLA, Dv ≠ Dk, experts", MLA | SPARSE),
    "minicpm3": ("MLA, Dv ≠ Dk", MLA),
    "youtu": ("MLA, Dv ≠ Dk", MLA),
    "longcat_flash": ("MLA, two attentions a layer", MLA | {
        "num_layers": 2, "num_hidden_layers": 4, "head_dim": 8, "ffn_hidden_size": 64, "expert_ffn_hidden_size": 32,
        "n_routed_experts": 2, "zero_expert_num": 1, "moe_topk": 2}),
    "deepseek_v32": ("MLA over the 6 keys that an indexer chooses", MLA | SPARSE | INDEXER),
    "glm_moe_dsa": ("MLA over the 6 keys that an indexer chooses", MLA | SPARSE | INDEXER),
    "stablelm": ("GQA, RoPE on part of a head", GQA),
    "starcoder2": ("GQA, window", GQA | SLIDING),
    "nemotron": ("GQA, RoPE on part of a head", GQA),
    "glm4": ("GQA, interleaved RoPE", HEAD),
    "exaone4": ("GQA, QK-norm, window and full", GQA | MIXED),
    "nanochat": ("GQA, QK-norm after RoPE", GQA),
    "diffllama": ("differential: one head's output minus another's", GQA),
    "bitnet": ("GQA, norm after attention", GQA),
    "ernie4_5": ("GQA, interleaved RoPE", HEAD),
    "seed_oss": ("GQA, biases", HEAD),
    "hunyuan_v1_dense": ("GQA, QK-norm after RoPE", HEAD),
    "bloom": ("MHA, ALiBi", GPT),
    "falcon": ("MQA, ALiBi, which eager adds twice and sdpa once", MHA | {"alibi": True}),
    "mpt": ("MHA, ALiBi", {"d_model": 64, "n_heads": 4, "n_layers": 2, "vocab_size": VOCABULARY, "max_seq_len": 64}),
    "gptj": ("MHA, RoPE on part of a head", GPT),
    "codegen": ("MHA, RoPE on part of a head", GPT),
    "gpt_neo": ("MHA, window and full", {
        "hidden_size": 64, "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]],
        "window_size": 5, "vocab_size": VOCABULARY, "max_position_embeddings": 64}),
    "xglm": ("MHA, sinusoidal positions", {
        "d_model": 64, "ffn_dim": 64, "num_layers": 2, "attention_heads": 4, "vocab_size": VOCABULARY,
        "max_position_embeddings": 64}),
}

# The layers that have a map stand beside.
HYBRIDS: dict[str, tuple[str, dict[str, Any], tuple[int, ...]]] = {
    "qwen3_next": ("gated delta rule, then GQA with an output gate", HEAD | {
        "layer_types": ["linear_attention", "full_attention"], "linear_num_key_heads": 2, "linear_num_value_heads": 2,
        "linear_key_head_dim": 16, "linear_value_head_dim": 16, "num_experts": 2, "num_experts_per_tok": 1,
        "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32}, (1,)),
    "kimi_linear": ("Kimi delta attention, then MLA", MLA | {
        "layer_types": ["linear_attention", "full_attention"], "linear_head_dim": 16, "linear_num_heads": 4,
        "moe_intermediate_size": 32, "num_local_experts": 2, "num_experts_per_tok": 1}, (1,)),
    # With the linear layer first, transformers decodes from position 0: its cache asks that layer for its length.
    "minimax": ("GQA, then lightning attention", HEAD | EXPERTS | {
        "layer_types": ["full_attention", "linear_attention"], "block_size": 8}, (0,)),
    "jamba": ("Mamba, then GQA", GQA | {
        "num_experts": 2, "num_experts_per_tok": 1, "attn_layer_period": 2, "attn_layer_offset": 1,
        "expert_layer_period": 2, "expert_layer_offset": 1, "mamba_d_state": 8, "use_mamba_kernels": False}, (1,)),
    "zamba2": ("Mamba2, and one MHA that two layers share", MHA | {
        "num_hidden_layers": 4, "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"], "num_key_value_heads": 4,
        "mamba_headdim": 32, "n_mamba_heads": 4, "mamba_d_state": 16, "mamba_ngroups": 1, "num_mem_blocks": 1,
        "chunk_size": 8, "adapter_rank": 8}, (1, 3)),
    "bamba": ("Mamba2, then GQA", GQA | MAMBA | {"attn_layer_indices": [1]}, (1,)),
    "falcon_h1": ("GQA beside Mamba2 in every layer", HEAD | MAMBA | {"mamba_d_ssm": 64, "mamba_d_head": 16}, (0, 1)),
    "granitemoehybrid": ("Mamba2, then GQA, experts", GQA | EXPERTS | MAMBA | {
        "layer_types": ["mamba", "attention"], "layers_block_type": ["mamba", "attention"],
        "shared_intermediate_size": 64}, (1,)),
    "lfm2": ("short convolution, then GQA with QK-norm", GQA | {"layer_types": ["conv", "full_attention"]}, (1,)),
    "nemotron_h": ("Mamba2, GQA and feed-forward as layers of their own", HEAD | {
        "num_hidden_layers": 3, "layers_block_type": ["mamba", "attention", "mlp"], "mamba_num_heads": 4,
        "mamba_head_dim": 32, "ssm_state_size": 16, "n_groups": 1, "chunk_size": 8}, (1,)),
    "recurrent_gemma": ("RG-LRU, RG-LRU, GQA with a window", HEAD | {
        "num_hidden_layers": 3, "attention_window_size": 5, "lru_width": 64}, (2,)),
    "mamba": ("Mamba alone", {"hidden_size": 64, "num_hidden_layers": 2, "state_size": 8, "vocab_size": VOCABULARY}, ()),
    "mamba2": ("Mamba2 alone", {
        "hidden_size": 64, "num_hidden_layers": 2, "state_size": 16, "num_heads": 4, "head_dim": 32, "n_groups": 1,
        "chunk_size": 8, "vocab_size": VOCABULARY}, ()),
    "rwkv": ("WKV alone", {
        "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": VOCABULARY, "attention_hidden_size": 64,
        "context_length": 64}, ()),
}

ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("MHA, learned positions", MHA),
    "roberta": ("MHA, learned positions", MHA | {"pad_token_id": 1}),
    "xlm-roberta": ("MHA, learned positions", MHA | {"pad_token_id": 1}),
    "camembert": ("MHA, learned positions", MHA | {"pad_token_id": 1}),
    "electra": ("MHA, learned positions", MHA | {"embedding_size": 32}),
    "distilbert": ("MHA, learned positions", {
        "dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "vocab_size": VOCABULARY, "max_position_embeddings": 64}),
    "albert": ("MHA, layers that share their weights", MHA | {"embedding_size": 32}),
    "esm": ("MHA, RoPE", MHA | {"pad_token_id": 1, "mask_token_id": 4, "position_embedding_type": "rotary"}),
    "modernbert": ("MHA, RoPE, window and full", MHA | {
        "eos_token_id": 1, "bos_token_id": 2, "cls_token_id": 3, "sep_token_id": 4, "local_attention": 8,
        "layer_types": ["sliding_attention", "full_attention"]}),
    "mpnet": ("MHA, relative bias", MHA),
    "deberta-v2": ("MHA, content by position", MHA | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}),
    "longformer": ("window and global tokens", MHA | {"attention_window": [4, 4]}),
    "big_bird": ("window, random and global blocks", MHA),
    "xlnet": ("MHA, relative positions", {
        "d_model": 64, "n_layer": 2, "n_head": 4, "d_inner": 64, "vocab_size": VOCABULARY}),
}

TRANSLATORS: dict[str, tuple[str, dict[str, Any]]] = {
    "bart": ("MHA, learned positions", TRANSLATE),
    "mbart": ("MHA, learned positions", TRANSLATE),
    "marian": ("MHA, sinusoidal positions", TRANSLATE | {"scale_embedding": True}),
    "m2m_100": ("MHA, sinusoidal positions", TRANSLATE),
    "pegasus": ("MHA, sinusoidal positions", TRANSLATE | {"scale_embedding": True}),
    "blenderbot": ("MHA, learned positions", TRANSLATE),
    "t5": ("MHA, relative bias", T5),
    "mt5": ("MHA, relative bias", T5),
    "umt5": ("MHA, relative bias in every layer", T5),
    "t5gemma": ("GQA, softcap, window and full", {
        "encoder": GEMMA, "decoder": GEMMA, "vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1,
        "eos_token_id": 2}),
    "led": ("window and global tokens", SPEAK | {
        "attention_window": [4, 4], "max_encoder_position_embeddings": 64, "max_decoder_position_embeddings": 64}),
}

LISTENERS: dict[str, tuple[str, dict[str, Any]]] = {
    "whisper": ("MHA, encoder and decoder", SPEAK | {
        "num_mel_bins": 8, "max_source_positions": 30, "max_target_positions": 64}),
    "speech_to_text": ("MHA, encoder and decoder", SPEAK | {
        "input_feat_per_channel": 8, "conv_channels": 16, "max_source_positions": 60, "max_target_positions": 64}),
    "wav2vec2": ("MHA over frames", WAVE),
    "hubert": ("MHA over frames", WAVE),
    "wavlm": ("MHA over frames, gated relative bias", WAVE),
    "audio-spectrogram-transformer": ("MHA over patches of a spectrogram", PICTURE | {
        "max_length": 24, "num_mel_bins": 16, "frequency_stride": 8, "time_stride": 8}),
}

VIEWERS: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("MHA over patches", PICTURE),
    "deit": ("MHA over patches", PICTURE),
    "dinov2": ("MHA over patches", PICTURE),
    "dinov3_vit": ("MHA over patches, RoPE", PICTURE),
    "clip_vision_model": ("MHA over patches", PICTURE),
    "siglip_vision_model": ("MHA over patches", PICTURE),
    "beit": ("MHA over patches, relative bias", PICTURE | {"use_relative_position_bias": True}),
    "swin": ("MHA in shifted windows, relative bias", {
        "image_size": 32, "patch_size": 4, "embed_dim": 32, "depths": [2], "num_heads": [4], "window_size": 4}),
}

KINDS = {"decoder": DECODERS, "hybrid": HYBRIDS, "encoder": ENCODERS, "translator": TRANSLATORS, "viewer": VIEWERS,
         "listener": LISTENERS}

# Those that compute attention in their own way, and those that have none.
REFUSED = {"bloom", "falcon", "mpt", "gptj", "codegen", "gpt_neo", "xglm", "mpnet", "deberta-v2", "longformer", "big_bird",
           "xlnet", "led", "wavlm", "mamba", "mamba2", "rwkv"}

# What a family cannot do in transformers 5.23, watched or not.
CANNOT: dict[str, dict[str, str]] = {
    "whisper": dict.fromkeys(("left", "right"), "its encoder takes no padding"),
    "audio-spectrogram-transformer": dict.fromkeys(("left", "right"), "it takes no padding"),
    "jamba": {"chunks": "its Mamba layers forget what they saw before a chunk"},
    "minimax": {"static": "it takes no cache but its own"},
    "recurrent_gemma": dict.fromkeys(("cache", "chunks", "static"), "it keeps its cache to itself"),
}


@dataclass(frozen=True)
class Family:
    """One family: its model_type in transformers, its kind (a key of KINDS), its attention in words."""

    name: str
    kind: str
    features: str
    settings: dict[str, Any]
    layers: tuple[int, ...] | None = None
    """The layers that have a map; None = every one."""

    cannot = property(lambda self: CANNOT.get(self.name, {}))
    translates = property(lambda self: self.kind == "translator" or self.name in ("whisper", "speech_to_text"))

    def model(self) -> nn.Module:
        """A fresh copy with the attention that transformers chooses; the same numbers every time."""
        import transformers

        auto = {"decoder": transformers.AutoModelForCausalLM, "hybrid": transformers.AutoModelForCausalLM,
                "translator": transformers.AutoModelForSeq2SeqLM}.get(self.kind, transformers.AutoModel)
        if self.kind == "listener" and self.translates:
            auto = transformers.AutoModelForSpeechSeq2Seq
        torch.manual_seed(0)
        return lively(auto.from_config(transformers.AutoConfig.for_model(self.name, **self.settings)).eval())

    def inputs(self, side: str | None = None, pads: int = 4) -> dict[str, Tensor]:
        """Two inputs of one length; text 0 begins or ends with padding where a `side` is named."""
        noise = torch.Generator().manual_seed(1)
        ids = torch.randint(5, VOCABULARY, (2, TOKENS), generator=noise)
        if self.kind == "viewer":
            return {"pixel_values": torch.randn(2, 3, 32, 32, generator=noise)}
        if self.translates and self.kind == "listener":
            shape, real = ((2, 8, 60), 60) if self.name == "whisper" else ((2, 60, 8), 60)
            given = {"input_features": torch.randn(shape, generator=noise), "decoder_input_ids": ids[:, :6]}
        elif self.kind == "listener":
            shape, real = ((2, 24, 16), 24) if self.name == "audio-spectrogram-transformer" else ((2, 260), 260)
            given = {"input_values": torch.randn(shape, generator=noise)}
        else:
            given, real = {"input_ids": ids}, TOKENS
            if self.translates:
                given["decoder_input_ids"] = ids[:, 6:12].flip(1)
        if side is None:
            return given
        mask = torch.ones(2, real, dtype=torch.int64)
        mask[0, :pads * real // TOKENS] = 0
        return given | {"attention_mask": mask if side == "left" else mask.flip(1)}


def lively(model: nn.Module) -> nn.Module:
    """Weights far from their flat beginnings: every head looks somewhere, every norm, bias and sink does something."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.requires_grad:     # sinusoids are parameters too
                around = 1.0 if "norm" in name.lower() or ".ln_" in name else 0.0
                p.copy_(torch.randn(p.shape) * (0.15 if p.ndim > 1 else 0.3) + around)
    return model


FAMILIES = {name: Family(name, kind, *described) for kind, families in KINDS.items() for name, described in families.items()}
