"""The Streamlit dashboard: one page over the read models."""
