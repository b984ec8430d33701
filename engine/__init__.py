"""The write side: values, facts, pure rules, and the few modules that touch the world.

Imports nothing from `analysis`, `projections` or `ui`.
"""
