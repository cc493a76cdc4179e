"""``walkeeper expire``: ``look`` finds out what may go, ``delete`` lets it go below a recorded floor, ``command`` runs them."""
