"""Tables and logs as people have them, in files: one reader, whoever reads."""
