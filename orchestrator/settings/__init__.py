"""Words that are typed and files of search_spaces -> one checked configuration."""
