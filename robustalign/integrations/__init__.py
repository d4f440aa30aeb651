"""Ambiguity sets in the trainers where people already train."""
