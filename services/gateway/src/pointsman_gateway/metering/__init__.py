"""What did it cost? Every request ends with a receipt, however it ends."""
