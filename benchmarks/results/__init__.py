"""The results table: recipes trained and evaluated as in the papers, beside the published figures."""
