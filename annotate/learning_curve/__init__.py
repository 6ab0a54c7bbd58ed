"""The learning curve over touches: how good a detector gets by how much work of a person."""
