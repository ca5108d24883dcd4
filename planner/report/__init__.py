"""How plans, predictions, audits and comparisons are printed; the ledger of predicted against measured."""
