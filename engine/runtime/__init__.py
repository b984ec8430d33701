"""Sessions and runs: the one loop of backtest, paper trading and replay, and the commands of operators."""
