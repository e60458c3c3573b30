"""The paper's tables: measures, results and pages. Nothing that training or sampling needs goes in here."""
