"""What data sets that are read from files have in common: objects out of files, records of them."""
