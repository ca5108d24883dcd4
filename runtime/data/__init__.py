"""From text files to token batches: tokenizer, corpus, cache, sampling."""

from runtime.data.dataset import TokenData, open_data
from runtime.data.prepare import prepare_data

__all__ = ["TokenData", "open_data", "prepare_data"]
