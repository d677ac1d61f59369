"""Objects in pictures, collected from whatever order they come in; 44 bytes each in memory."""

import math
import os
from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from mmlight.data.packing.source import (
    Given,
    Source,
    SourceFiles,
    StoredFile,
    ending_of,
    key_of,
    number_classes,
)
from mmlight.errors import UserError

NO_AREA = "boxes without area in their picture"


class BoxSamples:
    """Pictures and the objects in them; a picture without objects is a sample, too.

    Their paths start from the folder of `files`; messages begin with `where`.
    """

    def __init__(self, files: SourceFiles, given: Given, *, where: str) -> None:
        self._files = files
        self._given = given
        self._where = where
        self._pictures: dict[str, int] = {}
        self._classes: dict[str, int] = {}
        self._picture_N = array("q")
        self._class_N = array("i")
        self._xyxy_N4 = array("d")
        self.result = Source(())

    def add_picture(self, path: str) -> int:
        """Note a picture; return its number. Windows separates folders by backslashes."""
        path = os.path.normpath(path.replace("\\", "/"))
        return self._pictures.setdefault(path, len(self._pictures))

    def add(
        self,
        picture: int,
        xyxy: Sequence[float],
        name: str,
        *,
        size: tuple[int, int] | None,
        where: str,
    ) -> None:
        """Note an object of a picture: its corners in pixels, and its class.

        Where the size of the picture is known, what lies outside is no box.

        Raises:
            UserError: coordinates that are none.
        """
        if not all(math.isfinite(value) for value in xyxy):
            raise UserError(f"{where}: box {list(xyxy)} is not made of four numbers")
        width, height = size if size and min(size) > 0 else (math.inf, math.inf)
        left, top, right, bottom = xyxy
        if min(right, width) <= max(left, 0) or min(bottom, height) <= max(top, 0):
            self.result.left_out[NO_AREA] += 1
            return
        self._picture_N.append(picture)
        self._class_N.append(self._classes.setdefault(name, len(self._classes)))
        self._xyxy_N4.extend(xyxy)

    def is_first_there(self) -> bool:
        """Return whether the first picture's file is where it is looked for."""
        return (self._files.folder / next(iter(self._pictures))).is_file()

    def finish(
        self,
        *,
        ordered: Sequence[str] | None = None,
        extras: Callable[[int], dict[str, Any]] = lambda picture: {},
    ) -> Source:
        """Return the samples, in the order in which their pictures were noted.

        The source may have its own order of classes, and further values of a picture's json.

        Raises:
            UserError: no picture, or a class that is not among those given.
        """
        if not self._pictures:
            raise UserError(f"{self._where}: names no picture")
        self.result.class_names, number_of = number_classes(
            self._classes, self._given.class_names, where=self._where, ordered=ordered
        )
        number_K = np.array([number_of[name] for name in self._classes], np.int64)
        self.result.samples = self._samples(number_K, extras)
        return self.result

    def _samples(
        self, number_K: np.ndarray, extras: Callable[[int], dict[str, Any]]
    ) -> Iterator[dict[str, Any]]:
        picture_N = np.frombuffer(self._picture_N, np.int64)
        order_N = np.argsort(picture_N, kind="stable")
        first = np.searchsorted(picture_N[order_N], np.arange(len(self._pictures) + 1))
        xyxy_N4 = np.frombuffer(self._xyxy_N4, np.float64).reshape(-1, 4)
        class_N = np.frombuffer(self._class_N, np.int32)
        for path, picture in self._pictures.items():
            if self._given.exclude(path):
                self.result.left_out["pictures by --exclude"] += 1
                continue
            mine = order_N[first[picture] : first[picture + 1]]
            extension = ending_of(path)
            if not extension:
                raise UserError(f"{self._where}: picture '{path}' has no ending such as .jpg")
            yield {
                "__key__": key_of(path),
                extension: StoredFile(self._files, self._files.folder / path, self._where),
                "json": {
                    "boxes": [[_short(value) for value in box] for box in xyxy_N4[mine].tolist()],
                    "labels": number_K[class_N[mine]].tolist(),
                    **extras(picture),
                },
            }
        self._given.exclude.check()


def _short(value: float) -> float | int:
    return int(value) if value.is_integer() else value
