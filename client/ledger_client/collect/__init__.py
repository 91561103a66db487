"""Collects events that other systems recorded.

times      times as other systems write them
importers  files of records: one mapping file for each product
syslog     a listener for hosts that can send nothing else
"""
