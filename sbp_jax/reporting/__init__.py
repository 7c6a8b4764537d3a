"""What the report of the loop is made of: figures as plain data, drawn as SVG and as PNG."""
