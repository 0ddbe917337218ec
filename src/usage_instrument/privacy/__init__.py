"""A user's rights: in comes a user, out go their data, or the proof that they are erased or opted out."""
