"""What `fit` is called with: the record of a call, its rows, folds, order and identities."""
