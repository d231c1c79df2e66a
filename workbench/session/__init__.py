"""Sessions: findings that travel, re-run and cannot harm."""
