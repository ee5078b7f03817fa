"""Images that a store owns, in a folder that a run may own too.

Only what came in through here is listed, counts for the cap and may be evicted; images that lie in
a shared folder for other reasons (rendered ones, those of a local corpus) are left alone.
"""

from core.records import ImageRef
from envs.images import FileImageStore, image_ref
from envs.store.store import Store, own_blob


class StoreImages:
    """Implements core.protocols.ImageStore over the image folder of a store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._files = FileImageStore(store.images.folder)

    def put(self, data: bytes) -> ImageRef:
        ref = image_ref(data)
        if not self._keep(ref):
            self._place(data, ref)
        return ref

    def get(self, ref: ImageRef) -> bytes:
        return self._files.get(ref)

    def _keep(self, ref: ImageRef) -> bool:
        """Save a good file that is there, even from a removal under way."""
        store = self._store
        with store.writing() as db:
            if store.images.read(ref.sha256) is None:
                return False
            values = (store.now(), ref.sha256)
            db.execute("UPDATE blobs SET doomed = 0, added_s = ? WHERE sha256 = ?", values)
            return True

    def _place(self, data: bytes, ref: ImageRef) -> None:
        store = self._store
        draft = store.images.draft(data)
        with store.writing() as db:
            if store.images.place(draft, ref.sha256):
                own_blob(db, ref.sha256, kind="image", size=len(data), now=store.now())

    def has(self, ref: ImageRef) -> bool:
        """Whether the file is there; `get` checks what is in it."""
        return self._store.images.path(ref.sha256).is_file()
