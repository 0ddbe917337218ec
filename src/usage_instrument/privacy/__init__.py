"""The rights of users. In comes a user, out go their data, or the proof that they are erased or opted out."""
