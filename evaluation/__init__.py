"""The paper's tables: measures, results and pages. Nothing in here is needed to train or to sample."""
