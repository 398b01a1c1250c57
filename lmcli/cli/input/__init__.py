"""What comes in: stdin, attachments, documents, chat files, schemas, recorded results."""
