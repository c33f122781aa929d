"""What can be measured, group by group; each gives a JSON document and tables."""
