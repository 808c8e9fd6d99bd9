"""`pilechain wallet`: one subcommand per thing a party does. `command.py` puts it together; one module per kind of party."""
