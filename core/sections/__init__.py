"""The sections of the config tree, one file per theme; core/config.py puts them together and loads.

Plain data with defaults and bounds. Nothing here reads a file or the environment.
"""
