"""What people have, as samples for shards: folders, tables, boxes, columns of tags, lines."""
