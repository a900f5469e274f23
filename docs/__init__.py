"""Programs that write numbers into the documents."""
