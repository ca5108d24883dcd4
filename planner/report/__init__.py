"""Printed reports of plans, predictions, audits and comparisons; the ledger of predicted against measured."""
