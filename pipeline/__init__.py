"""The stages of Pet Faces and what they share; see README.md for the map."""
