"""What a site needs around its chain: certificates, the broker's files, and the commands that keep them."""
