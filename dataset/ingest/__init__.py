"""Data sets as the field has them, a file a clip and a table, made into a data folder."""
