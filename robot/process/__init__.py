"""The arm's own process: it alone opens the port, guards, holds, parks, and answers clients."""
