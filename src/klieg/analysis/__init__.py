"""What attention is used for once it is known: which word stands for which, and who is meant by a pronoun."""
