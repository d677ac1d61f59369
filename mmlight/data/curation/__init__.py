"""The data side of a lab: shards checked, counted, looked at, filtered, split, merged, sifted."""
