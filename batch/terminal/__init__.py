"""What a person sees of a run: live progress on a terminal, plain lines elsewhere, the account at its end, its rows.

Everything is readable in 80 columns.
"""
