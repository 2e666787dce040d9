"""What a machine boots from."""
