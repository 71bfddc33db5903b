"""The study: many runs on the same folds, and the tables, figures and report made of them."""
