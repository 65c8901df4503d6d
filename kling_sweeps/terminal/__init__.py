"""What a person sees in the terminal: streams, tables, the live table."""
