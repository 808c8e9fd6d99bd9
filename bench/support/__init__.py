"""What several figures are measured on."""
