"""Input: stdin, attachments, documents, chat files, schemas, recorded results."""
