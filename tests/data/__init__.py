"""The data room: corpus, tokenizer, sequences, cache."""
