"""Write side: values, events, pure trading rules, broker, runtime, market data, store and audit.

Imports nothing from `analysis`, `projections` or `ui`.
"""
