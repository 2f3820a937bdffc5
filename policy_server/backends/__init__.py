"""Policies by kind."""
