"""What qup knows, as frozen data: no module in here does any I/O."""
