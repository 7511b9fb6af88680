"""A file a paper, a variant a table or figure: `evaluate.py --config eval/kap:table1`."""
