"""Experience: episodes on disk, segments of them in memory."""

from diamond_gym.data.about import About
from diamond_gym.data.episode_files import Episode
from diamond_gym.data.episodes import EpisodeStore

__all__ = ["About", "Episode", "EpisodeStore"]
