"""From text files to token batches: tokenizer, corpus, cache, sampling."""
