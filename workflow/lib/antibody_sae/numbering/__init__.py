"""IMGT and other numbering schemes, regions and germlines of antibody chains."""
