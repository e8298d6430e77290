"""An application on two hosts: one sends, one works, and Redis is between them."""
