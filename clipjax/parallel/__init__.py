"""Devices as one mesh, which array lies where on it, and how a process joins a run."""
