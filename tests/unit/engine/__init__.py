"""Tests of the Docker Engine room."""
