"""Parts of mixture-of-experts editors: adaptor, experts, routers, losses, memories, merging."""
